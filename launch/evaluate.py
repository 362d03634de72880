"""Runs `dist-plm evaluate`: see dist_plm/cli/commands/evaluate.py."""

from dist_plm.cli.commands.evaluate import main

if __name__ == "__main__":
    main()
