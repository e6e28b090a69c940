"""A user's state on this device: read at once, edited offline, in step with the server whenever that can be reached.

    async with Replica("ada.roost", "https://roost.example", "ada", token) as replica:
        replica.put("preferences", "ui", {"theme": "dark"})
        await replica.synced()

`roost.sync.replica` decides everything and does no I/O; here are `store`, the file that it is kept in, `lines`, by
which it reaches the server, `following`, the task that keeps both in step, and `replica`, what an application sees.
"""

from roost.client.replica.following import Status
from roost.client.replica.replica import Changes, Replica, Transaction
from roost.client.replica.store import ReplicaInUse, ReplicaUnusable
from roost.core.commands import Result
from roost.core.edits import Edit
from roost.sync.replica import View

__all__ = [
    "Changes",
    "Edit",
    "Replica",
    "ReplicaInUse",
    "ReplicaUnusable",
    "Result",
    "Status",
    "Transaction",
    "View",
]
