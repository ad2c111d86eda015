"""Optional libraries."""


class NotInstalled(ModuleNotFoundError):
    """Raised where an optional library is not installed; the message says how to install it."""
