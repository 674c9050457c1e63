"python -m psych201: the command line, where the script is not on the path."
from psych201.workbench.cli import main

raise SystemExit(main())
