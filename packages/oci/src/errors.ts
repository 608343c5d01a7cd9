// The errors that the distribution API speaks: code, HTTP status and JSON body.

/**
 * Codes with their usual HTTP status: those of the OCI distribution specification 1.1 ("Error codes") and those that
 * the reference implementation adds (the last five).
 */
export const OCI_ERROR_STATUS = {
  BLOB_UNKNOWN: 404,
  BLOB_UPLOAD_INVALID: 400,
  BLOB_UPLOAD_UNKNOWN: 404,
  DIGEST_INVALID: 400,
  MANIFEST_BLOB_UNKNOWN: 400,
  MANIFEST_INVALID: 400,
  MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400,
  NAME_UNKNOWN: 404,
  SIZE_INVALID: 400,
  UNAUTHORIZED: 401,
  DENIED: 403,
  UNSUPPORTED: 405,
  TOOMANYREQUESTS: 429,
  TAG_INVALID: 400,
  RANGE_INVALID: 416,
  PAGINATION_NUMBER_INVALID: 400,
  UNAVAILABLE: 503,
  UNKNOWN: 500,
} as const satisfies Record<string, number>

export type OciErrorCode = keyof typeof OCI_ERROR_STATUS

/** The JSON body of an error answer. */
export interface OciErrorBody {
  errors: { code: OciErrorCode; message: string; detail?: unknown }[]
}

export interface OciErrorDetails {
  /** HTTP status, where it is not the usual one of the code. */
  status?: number
  /** Goes to the client: never a secret. */
  detail?: unknown
  /** Headers of the answer, such as `WWW-Authenticate` or `Retry-After`. */
  headers?: Readonly<Record<string, string>>
  cause?: unknown
}

/** An error that is answered to a client of the distribution API as it stands. */
export class OciError extends Error {
  override readonly name = 'OciError'
  readonly code: OciErrorCode
  /** HTTP status of the answer. */
  readonly status: number
  readonly detail: unknown
  readonly headers: Readonly<Record<string, string>>

  constructor(code: OciErrorCode, message: string, details: OciErrorDetails = {}) {
    super(message, { cause: details.cause })
    this.code = code
    this.status = details.status ?? OCI_ERROR_STATUS[code]
    this.detail = details.detail
    this.headers = details.headers ?? {}
  }
}

/** The body that goes with an error. */
export function ociErrorBody(error: OciError): OciErrorBody {
  const { code, message, detail } = error
  return { errors: [detail === undefined ? { code, message } : { code, message, detail }] }
}
