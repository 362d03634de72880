"""Runs `dist-plm generate`: see dist_plm/cli/commands/generate.py."""

from dist_plm.cli.commands.generate import main

if __name__ == "__main__":
    main()
