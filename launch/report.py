"""Runs `dist-plm report`: see dist_plm/cli/commands/showing/report.py."""

from dist_plm.cli.commands.showing.report import main

if __name__ == "__main__":
    main()
