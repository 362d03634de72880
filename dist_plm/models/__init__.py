import dist_plm.device  # noqa: F401  (quiets what Megatron-core says on import; before anything imports it)
