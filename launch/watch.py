"""Runs `dist-plm watch`: see dist_plm/cli/commands/showing/watch.py."""

from dist_plm.cli.commands.showing.watch import main

if __name__ == "__main__":
    main()
