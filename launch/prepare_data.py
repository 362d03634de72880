"""Runs `dist-plm prepare`: see dist_plm/cli/commands/prepare_data.py."""

from dist_plm.cli.commands.prepare_data import main

if __name__ == "__main__":
    main()
