"""Runs `dist-plm convert`: see dist_plm/cli/commands/convert.py."""

from dist_plm.cli.commands.convert import main

if __name__ == "__main__":
    main()
