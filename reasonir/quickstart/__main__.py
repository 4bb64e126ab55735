import sys

from reasonir.quickstart.world import main

sys.exit(main(sys.argv[1:]))
