"""What the bytes mean.  Pure: time and chance are arguments, machines return actions, drivers perform them."""
