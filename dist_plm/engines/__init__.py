import dist_plm.distributed  # noqa: F401  (quiets what Megatron-core says on import; before anything imports it)
