"""What `flwr run` finds in this project's settings as its ClientApp. Nobody runs it.

A site answers with the ClientApp that it has installed (`client/worker/`), whatever a run ships. Elsewhere this
answers nothing.
"""

from flwr.clientapp import ClientApp

app = ClientApp()
