import sys

from pawfect.command import main

sys.exit(main())
