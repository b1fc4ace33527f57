"""Where the bytes are: TFRecords, and the plan of units over them."""
