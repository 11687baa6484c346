"""The ClientApp of a site: Flower brings an instruction, the site answers it or refuses with a fixed code.

signed by the coordinator, for this site? -> the site (`client/answers.py`) -> signed by the site, as the reply to it
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.answers import RefusedError, Site
from privacy.errors import ProtocolError
from study.envelope import ACTION, answer_message, content_of, refusal_message
from study.instructions import opened_instruction
from study.queries import Refusal
from study.refusals import refusal_bytes

__all__ = ["make_client_app"]


def make_client_app(site: Site, *, coordinator: bytes | None = None) -> ClientApp:
    """A ClientApp through which `site` is asked.

    Arguments:
        coordinator: public key of the only one whose instructions are read at all. None: anybody who can call this app
            is heard, and replies are not signed: for a process in which there is nobody else.
    """
    app = ClientApp()

    def answered(content: bytes) -> bytes:
        """The site's signed reply to an instruction: an answer, or a refusal."""
        try:
            payload = opened_instruction(content, to=site.public, coordinator=coordinator or b"")
            said = site.answer(payload)
        except RefusedError as refused:
            said = refusal_bytes(refused.refusal, refused.rules)
        except ProtocolError as error:
            site.note(error, f"An instruction was refused: {error.message}")
            said = refusal_bytes(Refusal.MALFORMED)
        return site.signed_reply(said, instruction=content)

    @app.query(ACTION)
    def answer_sum(message: Message, _context: Context) -> Message:
        try:
            content = content_of(message)
            if coordinator is not None:
                return answer_message(answered(content), to=message)
            return answer_message(site.answer(content), to=message)
        except RefusedError as refused:
            return refusal_message(refused.refusal, to=message, rules=refused.rules)
        except ProtocolError:
            return refusal_message(Refusal.MALFORMED, to=message)

    return app
