"""The ClientApp of a site: Flower brings a query, the site answers it or refuses with a fixed code."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.answers import RefusedError, Site
from privacy.errors import ProtocolError
from study.envelope import ACTION, answer_message, content_of, refusal_message
from study.queries import Refusal

__all__ = ["make_client_app"]


def make_client_app(site: Site) -> ClientApp:
    """A ClientApp through which `site` is asked."""
    app = ClientApp()

    @app.query(ACTION)
    def answer_sum(message: Message, _context: Context) -> Message:
        try:
            return answer_message(site.answer(content_of(message)), to=message)
        except RefusedError as refused:
            return refusal_message(refused.refusal, to=message, rules=refused.rules)
        except ProtocolError:
            return refusal_message(Refusal.MALFORMED, to=message)

    return app
