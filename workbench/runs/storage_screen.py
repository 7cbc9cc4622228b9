from workbench.data.prepared_screen import PreparedDataScreen as CachedDataScreen  # noqa: F401
from workbench.runs.trash_screen import TrashScreen  # noqa: F401
from workbench.train.queue_screen import QueueScreen  # noqa: F401
