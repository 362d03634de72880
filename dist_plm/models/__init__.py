import dist_plm.distributed  # noqa: F401  (has Megatron-core imported leanly; before anything imports it)
