// The version of this Shoal, from the package that people install.
import packageJson from '../package.json' with { type: 'json' }

export const VERSION: string = packageJson.version
