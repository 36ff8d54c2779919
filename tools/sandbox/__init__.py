"""Where a toolbox and its worlds live: one contract, several backends."""
