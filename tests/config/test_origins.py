from dist_plm.config.origins import DEFAULT, DERIVED, Layer, Origin, complete, table, trace

LAYERS = [
    Layer("conf/optim/adamw.yaml", {"optim": {"lr": 1, "eps": 2}}),
    Layer("conf/experiment/x.yaml", {"optim": {"lr": 3}, "run": {"name": "x"}}),
    Layer("command line", {"optim": {"lr": 4}}),
]


def test_the_last_layer_wins_and_those_before_are_kept():
    origins = trace(LAYERS)
    assert origins["optim.eps"] == Origin("conf/optim/adamw.yaml")
    assert origins["optim.lr"] == Origin("command line", (("conf/experiment/x.yaml", 3), ("conf/optim/adamw.yaml", 1)))


def test_what_no_layer_sets_is_default_or_derived():
    decoded = {"optim": {"lr": 4, "eps": 2, "clip": 1}, "run": {"name": "x", "dir": None}, "model": {"ffn": None}}
    finalised = {**decoded, "run": {"name": "x", "dir": "runs/x"}}
    origins = complete(trace(LAYERS), decoded, finalised)
    sources = {key: origin.source for key, origin in origins.items()}
    assert sources == {
        "optim.lr": "command line",
        "optim.eps": "conf/optim/adamw.yaml",
        "optim.clip": DEFAULT,
        "run.name": "conf/experiment/x.yaml",
        "run.dir": DERIVED,
        "model.ffn": DEFAULT,
    }


def test_the_table_tells_what_was_replaced():
    text = table({"optim": {"lr": 4}}, trace(LAYERS))
    assert text == "optim.lr  4  command line  (over conf/experiment/x.yaml: 3, conf/optim/adamw.yaml: 1)"
