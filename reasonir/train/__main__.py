from reasonir.train.cli import main

main()
