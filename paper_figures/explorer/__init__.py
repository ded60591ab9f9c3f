"""The page's explorer: tables that theory fills, and a script that looks up, interpolates and draws them."""
