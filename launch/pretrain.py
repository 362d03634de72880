"""Runs `dist-plm pretrain`: see dist_plm/cli/commands/pretrain.py."""

from dist_plm.core.early_signals import hear_early

if __name__ == "__main__":
    hear_early()  # the import takes its time

    from dist_plm.cli.commands.pretrain import main

    main()
