"""Runs `dist-plm finetune`: see dist_plm/cli/commands/finetune.py."""

from dist_plm.core.early_signals import hear_early

if __name__ == "__main__":
    hear_early()  # the import takes its time

    from dist_plm.cli.commands.finetune import main

    main()
