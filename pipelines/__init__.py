"""The Ray jobs."""

from pipelines import imports
from pipelines.terminal.public_logs import keep_logs_public

# In workers, too, which import a part of this package and run no command line.
imports.install()
keep_logs_public()
