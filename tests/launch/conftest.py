"""Launch scripts find each other through their own folder, as when a person starts them."""

import sys
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[2] / "launch"

sys.path.insert(0, str(LAUNCH))
