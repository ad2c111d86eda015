"""Optional libraries."""


class NotInstalled(ModuleNotFoundError):
    """Raised if an optional library is not installed; the message says how to install it."""
