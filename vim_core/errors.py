"""The errors that VIM raises for people: one line, the offending value, what to do."""


class VimError(Exception):
    """Base of all errors whose message is meant for the user; the command line prints it without a traceback."""


class ConfigError(VimError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class LineageError(VimError):
    """Two artifacts do not belong together, such as codes of one tokenizer and a prior of another."""


class DataError(VimError):
    """Input data is missing, unreadable or not what its manifest promises."""


class StorageError(VimError):
    """The artifact root or the work area cannot be read or written."""


class ResumeError(VimError):
    """Unfinished work exists but cannot be continued here, for instance on another numeric class."""


class NonFiniteError(VimError):
    """A loss or a gradient was not finite and the training was told to halt there."""


class CollapseError(VimError):
    """Too little of the codebook is in use and the training was told to halt there."""


class CodeError(VimError):
    """A process that a command started runs other code than the command."""


class GateError(VimError):
    """An artifact is whole but breaks a bound of `gates`, or its own account of itself: nothing is made from it."""
