"""Several processes of this machine or of many: who does what, who watches whom, how they end."""
