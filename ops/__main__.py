"""`python -m ops` is `payouts`."""

from ops.main import main

if __name__ == "__main__":
    main()
