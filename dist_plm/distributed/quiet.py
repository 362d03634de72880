"""Silence for the warnings that say nothing a user can act on."""

import warnings

#: Megatron-core warns once a module on import that it falls back to torch; both libraries are optional here.
_FALLBACK_MESSAGE = r"(Transformer Engine and Apex are|Apex is) not installed\. Falling back to"


def quiet_megatron_imports() -> None:
    """Ignore Megatron-core's "Transformer Engine and Apex are not installed" warnings, and no others."""
    warnings.filterwarnings("ignore", message=_FALLBACK_MESSAGE, category=UserWarning, module=r"megatron\.core\b")
