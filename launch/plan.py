"""Runs `dist-plm plan`: see dist_plm/cli/commands/plan.py."""

from dist_plm.cli.commands.plan import main

if __name__ == "__main__":
    main()
