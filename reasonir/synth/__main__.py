from reasonir.synth.cli import main

main()
