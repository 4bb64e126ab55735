from reasonir.eval.cli import main

main()
