// Tables that Python (tests/unit/{shots/test_timeline,trace/test_drawing}_tables.py) and JavaScript both agree with.

import { readFileSync } from "node:fs"

export const table = (name) => JSON.parse(readFileSync(new URL(`./tables/${name}.json`, import.meta.url), "utf-8"))
