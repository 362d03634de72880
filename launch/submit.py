"""Runs `dist-plm submit`: see dist_plm/cli/commands/submit.py."""

from dist_plm.cli.commands.submit import main

if __name__ == "__main__":
    main()
