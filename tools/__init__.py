"""Set-up, demo and other helpers of the checkout; not part of the installed package."""
