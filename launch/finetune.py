"""Runs `dist-plm finetune`: see dist_plm/cli/commands/finetune.py."""

from dist_plm.cli.commands.finetune import main

if __name__ == "__main__":
    main()
