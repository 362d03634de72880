"""Runs `dist-plm rehearse`: see dist_plm/cli/commands/rehearse.py."""

from dist_plm.cli.commands.rehearse import main

if __name__ == "__main__":
    main()
