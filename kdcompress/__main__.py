from kdcompress.cli.main import main

main()
