"""Runs `dist-plm samples`: see dist_plm/cli/commands/samples.py."""

from dist_plm.cli.commands.samples import main

if __name__ == "__main__":
    main()
