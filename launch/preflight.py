"""Runs `dist-plm preflight`: see dist_plm/cli/commands/preflight.py."""

from dist_plm.cli.commands.preflight import main

if __name__ == "__main__":
    main()
