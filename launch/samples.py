"""Runs `dist-plm samples`: see dist_plm/cli/commands/showing/samples.py."""

from dist_plm.cli.commands.showing.samples import main

if __name__ == "__main__":
    main()
