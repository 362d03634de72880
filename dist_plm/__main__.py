"""Lets torchrun and srun start a command without its file: `torchrun -m dist_plm pretrain …`."""

from dist_plm.cli.main import main

if __name__ == "__main__":
    main()
