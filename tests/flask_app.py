"""An application as its author would write it: notes that every user keeps for themselves, served by test_flask.py.

FLASK_AGENTMEM_PATH=/srv/notes.db gunicorn --worker-class=gthread --threads=4 "flask_app:create_app()"
"""

import os

from flask import Flask, abort, request

from agentmem.integrations.flask import AgentMem, current_memory

agentmem = AgentMem()


@agentmem.owner
def owner():
    """The server in front of the application has signed the user in and passes the name."""
    return {"user_id": request.headers.get("X-User") or abort(401)}


def create_app(**settings):
    app = Flask(__name__)
    app.config.from_prefixed_env()  # FLASK_AGENTMEM_PATH and the like.
    app.config.from_mapping(settings)
    agentmem.init_app(app)

    @app.post("/notes")
    def keep():
        note = request.get_json()
        record = current_memory.add(note["text"], defer=note.get("defer", False))
        return {"id": record.id, "worker": os.getpid()}

    @app.get("/notes")
    def find():
        matches = current_memory.search(request.args["q"], limit=5)
        return {"notes": [match.record.content for match in matches], "worker": os.getpid()}

    @app.get("/notes/count")
    def count():
        return {"count": current_memory.count(), "worker": os.getpid()}

    @app.get("/notes/<id>")
    def show(id):
        with agentmem.memory as memory:  # The worker's; the end of the block leaves it open.
            record = memory.scope(**owner()).get(id)
        return {"text": record.content} if record else abort(404)

    @app.patch("/notes/<id>")
    def change(id):
        return {"text": current_memory.update(id, request.get_json()["text"]).content}

    @app.delete("/notes")
    def forget():
        return {"deleted": current_memory.delete_all()}

    return app
