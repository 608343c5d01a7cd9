// Lint rules. Two of them carry the design: promises never float, and a room imports only the rooms above it.
import js from '@eslint/js'
import tseslint from 'typescript-eslint'

/** The rooms of packages/ from bottom to top: a room may import only those before it in this list. */
const ROOMS = [
  'oci',
  'store',
  'upstream',
  'registry',
  'network',
  'swarm',
  'tracker',
  'origin',
  'agent',
  'cli',
  'simulator',
  'dashboard',
]

const arrows = ROOMS.map((room, level) => ({
  files: [`packages/${room}/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: [
          ...ROOMS.slice(level).map((above) => ({
            group: [`@shoal/${above}`, `@shoal/${above}/*`],
            message: `${room} may import only the rooms before it: ${ROOMS.slice(0, level).join(', ') || 'none'}.`,
          })),
          { group: ['**/packages/*', '../../../*'], message: 'Import another room by its package name.' },
        ],
      },
    ],
  },
}))

/** Rooms of decisions: what they need of clocks, chance and the outside world is passed in. */
const purity = {
  files: ['packages/swarm/src/policy/**/*.ts', 'packages/oci/src/**/*.ts'],
  ignores: ['**/*.test.ts'],
  rules: {
    'no-restricted-globals': ['error', 'setTimeout', 'setInterval', 'setImmediate', 'fetch', 'process'],
    'no-restricted-properties': [
      'error',
      { object: 'Math', property: 'random', message: 'Pass the random source in.' },
      { object: 'Date', property: 'now', message: 'Pass the time in.' },
      { object: 'performance', property: 'now', message: 'Pass the time in.' },
    ],
  },
}

export default tseslint.config(
  { ignores: ['**/node_modules/**', '.reports/**', '.cache/**'] },
  js.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: { allowDefaultProject: ['eslint.config.js'] } } },
    rules: {
      '@typescript-eslint/no-floating-promises': ['error', { ignoreVoid: false }],
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/restrict-template-expressions': 'off',
      'max-lines': ['error', { max: 500, skipBlankLines: true, skipComments: true }],
    },
  },
  {
    // node:test returns promises that its runner awaits itself.
    files: ['**/*.test.ts', '**/conformance.ts', 'test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          ignoreVoid: false,
          allowForKnownSafeCalls: [
            { from: 'package', package: 'node:test', name: ['test', 'it', 'describe', 'suite'] },
          ],
        },
      ],
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
    },
  },
  { files: ['**/*.js'], extends: [tseslint.configs.disableTypeChecked] },
  ...arrows,
  purity,
)
