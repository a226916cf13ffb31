// Tables that Python (tests/unit/shots/test_timeline_tables.py) and JavaScript must both agree with.

import { readFileSync } from "node:fs"

export const table = (name) => JSON.parse(readFileSync(new URL(`./tables/${name}.json`, import.meta.url), "utf-8"))
