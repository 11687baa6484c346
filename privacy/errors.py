"""The one root of every exception that Discreet raises, split by whose fault it is.

An exception carries a message (what was expected, what was found; never a secret, never a record) and,
where somebody can do something about it, a hint. Commands print both, once.
"""


class DiscreetError(Exception):
    """Something went wrong that Discreet can explain.

    Both texts may quote a file or another party's message, and are printed in terminals and logs: what would act
    there (ends of lines, escape sequences, changes of direction) is escaped.

    Arguments:
        message: one sentence: name, expected, actual.
        hint: what to do about it; empty if there is nothing to do.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = _printable(message), _printable(hint)
        super().__init__(self.message)

    @property
    def explained(self) -> str:
        """Message and hint, for a list in which each problem is a line."""
        return self.message + (f": {self.hint}" if self.hint else "")


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class UserError(DiscreetError):
    """The person at the keyboard gave something that cannot be used: a study, an option, a file."""


class StudyError(UserError):
    """A study says something impossible; the message names the setting."""


class DataError(UserError):
    """A data set cannot be used as the study asks; the message names the column, never a value."""


class ProtocolError(DiscreetError):
    """A message of another party breaks the rules; nothing was answered and no state changed."""


class AggregationError(ProtocolError):
    """A message breaks the rules of secure aggregation, at this `step`; what it was to tell stays hidden."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(f"{step}: {message}")
        self.step = step


class NoSessionError(AggregationError):
    """This site has no key for the session: it has restarted, or was never asked for one. A new session mends that."""


class RoundAbandonedError(DiscreetError):
    """Too few sites answered, and no spare round is left."""


class PrivacyError(DiscreetError):
    """A privacy parameter is out of range, or a guarantee cannot be given."""


class LedgerError(DiscreetError):
    """A ledger does not allow an entry, contradicts itself, or cannot be written; nothing was recorded."""


class BudgetError(LedgerError):
    """A study costs more than what is left of a lifetime budget."""
