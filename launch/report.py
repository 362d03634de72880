"""Runs `dist-plm report`: see dist_plm/cli/commands/report.py."""

from dist_plm.cli.commands.report import main

if __name__ == "__main__":
    main()
