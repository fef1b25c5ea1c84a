"""`python -m bench` is `ihvp-bench`, from a checkout that is not installed too."""

from bench.cli import main

if __name__ == "__main__":
    main()
