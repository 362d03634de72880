"""Runs `dist-plm fetch-quickstart`: see dist_plm/cli/commands/fetch_quickstart.py."""

from dist_plm.cli.commands.fetch_quickstart import main

if __name__ == "__main__":
    main()
