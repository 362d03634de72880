"""Runs `dist-plm pretrain`: see dist_plm/cli/commands/pretrain.py."""

from dist_plm.cli.commands.pretrain import main

if __name__ == "__main__":
    main()
