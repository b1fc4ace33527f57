"use strict";
// Empty in a folder; `raylatent serve` answers with what it can do.
